"""Methods that learn from several teachers apart, each of which may know other classes."""
