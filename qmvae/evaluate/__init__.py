"""The measures of a trained model: Table 1, Table 2, and the style in its private codes. Nothing here reads a file."""
