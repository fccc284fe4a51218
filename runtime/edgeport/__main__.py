"""``python -m edgeport`` is the command ``edgeport``."""

from edgeport.cli import main

raise SystemExit(main())
