"""What the daemons share: types and errors, the volume package, the runtime. Imports no daemon."""

import os

# gRPC's C core reports ordinary events (a peer that went away) on standard error, which belongs to
# the log events and error lines of ours. Read when grpc is imported first, so it is set here.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
