"""The generated code of the contract, version 1. Made by `make gen` from the .proto files beside it; never edited."""
