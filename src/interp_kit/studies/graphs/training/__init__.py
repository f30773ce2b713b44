"""Training of the compact form from scratch: data drawn on the device, several models as one stack."""
