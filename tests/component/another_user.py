"""The command `datafetch` as another user, who need not be able to read the project: everything is imported before.

    python tests/component/another_user.py UID GID ARGUMENTS...

GID is a supplementary group, as `fsGroup` of a pod is; the user's own group has the number of the user. Root is needed.
"""

import codecs
import importlib
import os
import sys

_CODECS = ("utf-8-sig", "idna", "ascii", "latin-1")
_MODULES = ("engine", "cli", "commands.fetch", "report", "progress", "sources.http", "transport.client")


def main() -> None:
    from datafetch.__main__ import main as run

    user, group = int(sys.argv[1]), int(sys.argv[2])
    for name in _CODECS:
        codecs.lookup(name)
    for name in _MODULES:
        importlib.import_module(f"datafetch.{name}")
    os.setgroups([group])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.umask(0o022)
    sys.argv = ["datafetch", *sys.argv[3:]]
    run()


if __name__ == "__main__":
    main()
