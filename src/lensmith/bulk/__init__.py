"""Bulk prediction: any number of images become a dataset of answers, in shards, on any number of workers."""
