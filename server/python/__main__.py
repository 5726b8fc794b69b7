"""What the server starts: `python <this folder> MODULE:OBJECT ...`."""

from millrace._worker import main

main()
