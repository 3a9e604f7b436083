"""Torture: real worker processes are killed at random moments, and crowds of threads write; nothing may be lost.

    python -m tests.torture kills --kills 500
    python -m tests.torture crowd --events 200000

``make torture`` runs both. Needs Linux: processes are killed and waited for by `os.pidfd_open`.
"""
