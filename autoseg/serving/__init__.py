"""The HTTP service: a queue before one loaded model (`job_queue`), its routes (`app`), and its server (`server`)."""
