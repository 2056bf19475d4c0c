"""The images of a run: `sources` reads them, `checks` checks them, and `dataset` pairs them."""
