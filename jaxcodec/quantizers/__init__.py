"""Vector quantizers, vectorised over product groups."""
