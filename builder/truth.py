"""Yes and no as Docker's flags and attributes say them. Source: Go, strconv.ParseBool."""

TRUTH = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
