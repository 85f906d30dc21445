"""What each client program needs to work with us, and how its own configuration is changed.

Pure but for ``kept`` (files of the user), ``gate`` and ``inside`` (sockets of the sandbox).
"""
