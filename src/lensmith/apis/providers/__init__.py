"""One module for each protocol, with a class `Provider`; see `apis.provider`."""
