"""How a classifier comes about: trained (`loop`), or fitted on frozen features (`probes`)."""
