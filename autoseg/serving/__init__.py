"""The HTTP service: a queue before one loaded model (`desk`), the routes to it (`app`), and its server (`server`)."""
