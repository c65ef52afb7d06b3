from __future__ import annotations

from tests.conformance.settings import Conformance

CONFORMANCE = {"newcomer_forgetful": Conformance(keeps_all=True), "newcomer_forgotten": Conformance()}
