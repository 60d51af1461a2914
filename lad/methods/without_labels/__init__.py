"""Methods that train backbone and neck on images without labels."""
