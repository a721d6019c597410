"""A service in, requests answered over a socket until the process is told to stop."""

import asyncio
import os
import socket

import uvicorn
from fastapi import FastAPI

from autoseg import console
from autoseg.errors import UsageError
from autoseg.serving.job_queue import JobQueue

_SECONDS_TO_SEND = 30
"""For sending the answers that are ready when the service ends."""
_INTERRUPTED = 130


class Server(uvicorn.Server):
    """Told to stop (SIGTERM, SIGINT), it refuses at once who waits, and ends when the image in work is answered.

    How long that may take is up to whoever stops it: supervisors kill after a time of their own. A second SIGINT ends
    it without the answer.
    """

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=_SECONDS_TO_SEND,
            )
        )
        self._jobs: JobQueue = app.state.jobs

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn once, when it was told to stop."""
        self._jobs.stop()
        if self._jobs.is_working:
            console.say("stopping when the image in work is answered; interrupt again to stop now")
        while self._jobs.is_working and not self.force_exit:
            await asyncio.sleep(0.05)
        if self.force_exit:
            os._exit(_INTERRUPTED)  # no thread can be ended; the next start removes what is left in the folder
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket on this address; port 0: any that is free. Raises UsageError where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"Cannot listen on {host} port {port}: {error.strerror}. Choose another --port.") from error
