"""Pixel evidence, annotators, the durable runner and the audit."""
