from tests.conformance.settings import Conformance

CONFORMANCE = {"anp": Conformance(options=("method.threshold=0.66", "method.steps=2"))}
