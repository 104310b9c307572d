"""Tests of lensmith.apis."""
