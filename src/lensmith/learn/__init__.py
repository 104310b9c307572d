"""Ways to make a classifier: trained weights (`loop`), or a head fitted on frozen features (`probes`)."""
