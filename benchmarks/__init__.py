"""Speed and memory against peers, intervals in simulation, detectors against people."""
