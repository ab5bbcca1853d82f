"""The numeric kernels that torch adapters share."""
