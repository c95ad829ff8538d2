"""No secret leaves and none is shown: the scan before a push, and the redaction of what is written."""
