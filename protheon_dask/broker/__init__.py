"""The master's gRPC service and its client, HTTP, and TLS."""

import os

# Before grpc is loaded, or never: else its C core writes a line to stderr for each handshake that fails, on a master for each stranger.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
