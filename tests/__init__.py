"""Tests of gdjax."""
