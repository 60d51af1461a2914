"""Methods that exchange label assignments."""
