"""Serve the built book at an address on this computer, and open it in the browser."""

import contextlib
import functools
import http.server
import threading
import webbrowser

from tools.book.check_book import HTML

PORT = 8128


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each request."""

    def log_message(self, *args):
        pass


def server(folder=HTML, port=PORT):
    """A server of a folder; where the port is taken, at any other."""
    handler = functools.partial(Quiet, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


@contextlib.contextmanager
def served(folder):
    """Yield the address on this machine at which the files of a folder can be read."""
    with server(folder, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def main():
    """Serve until the reader presses Control and C."""
    with server() as running:
        address = f"http://127.0.0.1:{running.server_port}/index.html"
        print(f"The book is at {address} until you press Ctrl+C")
        webbrowser.open(address)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
