"""Methods for two-stage detectors: region proposal networks and RoI heads."""
