"""The wire's server side: gRPC handlers that take and give raw bytes, sessions, and the errors' way out."""
