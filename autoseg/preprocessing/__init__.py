"""Images in, arrays on the network's grid out, and the store that training reads them from."""
