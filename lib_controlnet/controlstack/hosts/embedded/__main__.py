"""`python -m controlstack.hosts.embedded`: serve the embedded host."""

from __future__ import annotations

import sys

from controlstack.errors import ControlError
from controlstack.hosts import embedded


def main() -> int:
    """Serve until Ctrl-C. Returns the exit code."""
    try:
        embedded.boot(sys.argv[1:])
    except ControlError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    from modules import shared

    from controlstack.hosts.embedded import server

    port = shared.cmd_opts.port
    if server.free_port(port) != port:
        sys.stderr.write(f"Port {port} is taken; choose another one with --port.\n")
        return 1
    while True:
        running = server.create_server(port)
        sys.stdout.write(f"Serving on http://{server.HOST}:{port} (Ctrl-C ends it)\n")
        sys.stdout.flush()
        try:
            running.run()
        except KeyboardInterrupt:
            return 0
        if shared.state.server_command != "restart":
            return 0 if running.started else 1
        shared.state.clear_command()
        embedded.reload()


if __name__ == "__main__":
    sys.exit(main())
