"""The HTTP service: a queue in front of one loaded model (`desk`), and the routes to it (`app`)."""
