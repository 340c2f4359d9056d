"""The command `python -m recurrent_attention.data.checking FOLDER`."""

import argparse
import sys

from recurrent_attention.data.checking.problems import check_pictures


def main() -> int:
    """Check the folder that the command line names; 1 if anything is wrong with it, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m recurrent_attention.data.checking",
        description="Decode every picture of a data set, and list what is wrong. The exit status "
        "is 1 if anything is, and 2 if there is nothing to check.",
    )
    parser.add_argument(
        "folder",
        help="a folder for each class; or train/ and test/ (and val/) folders of these; or "
        "CUB-200-2011 or Stanford Dogs in its official layout",
    )
    parser.add_argument(
        "--num-workers", type=int, default=0, metavar="N", help="processes that decode; default: 0"
    )
    parser.add_argument("--all", action="store_true", help="list everything, not the first of each")
    arguments = parser.parse_args()
    try:
        report = check_pictures(arguments.folder, num_workers=arguments.num_workers)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(report.describe(most=None if arguments.all else 5))  # noqa: T201  # it is a command
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
