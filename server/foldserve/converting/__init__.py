"""Converting: a folded float32 model in, the same model in a lower precision out.

    int8        static quantisation: convolutions and matrix products in 8-bit integers
    float16     convolutions, matrix products and what lies between them in half precision
    prepare     the copy that both work on

What comes out answers nearly, not exactly, like what went in; how nearly is for others to measure, and to
accept or not. What cannot be converted rightly is refused. Import the modules where they are used: they bring
libraries that a server of float32 models does without.
"""
