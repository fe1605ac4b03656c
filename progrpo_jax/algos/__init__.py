"""The mathematics of the methods: pure functions, arrays in, arrays out."""
