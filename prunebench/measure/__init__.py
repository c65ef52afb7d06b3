"""What is measured on a net: cost, latency, calibration, and the statistics of a row."""
