"""Generated from `protos/fedcore/v1`; `make protos` writes it again. Never edited by hand."""
