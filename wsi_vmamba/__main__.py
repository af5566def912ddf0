"""Run the command line as `python -m wsi_vmamba`."""

from wsi_vmamba.cli import main

if __name__ == "__main__":
    main()
