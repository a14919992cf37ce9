"""Where generated code runs: no network, no host files, bounded, and gone afterwards."""
