"""Training patches in, varied training patches out, in torch on their own device."""
