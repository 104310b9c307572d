"""Tests of `lensmith.data`. A package, so that its modules may be called like those of other test folders."""
