"""Methods that compare predictions of dense heads."""
