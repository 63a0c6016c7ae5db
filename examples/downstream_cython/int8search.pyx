"""Search int8 embeddings: the vectors are packed once, every batch of queries is one product."""

cimport edgekern as ek
from libc.stdint cimport int8_t, int32_t

cdef const ek.ek_api* api = ek.get_api()


cdef check(ek.ek_status status):
    if status == ek.EK_ERROR_MEMORY:
        raise MemoryError(api.error_message().decode())
    if status != ek.EK_OK:
        raise ValueError(api.error_message().decode())


cdef class Index:
    """Vectors (count, depth) to be searched; any strides, copied by packing."""

    cdef ek.ek_packed* packed
    cdef readonly size_t count, depth

    def __cinit__(self, const int8_t[:, :] vectors):
        self.count, self.depth = vectors.shape[0], vectors.shape[1]
        if self.count == 0 or self.depth == 0:
            raise ValueError("Index: vectors must not be empty")
        # Column n of B is vector n: B[k][n] = vectors[n][k].
        check(api.pack_b(
            self.depth, self.count, &vectors[0, 0], vectors.strides[1], vectors.strides[0], &self.packed))

    def __dealloc__(self):
        api.free_packed(self.packed)

    def scores(self, const int8_t[:, ::1] queries, int32_t[:, ::1] out, int num_threads=0):
        """out[q, v] = queries[q] . vectors[v], without the GIL."""
        if <size_t> queries.shape[1] != self.depth or <size_t> out.shape[1] != self.count \
                or queries.shape[0] != out.shape[0]:
            raise ValueError("scores: queries must be (batch, depth) and out (batch, count)")
        if queries.shape[0] == 0:
            return
        cdef ek.ek_gemm gemm
        gemm.m = queries.shape[0]
        gemm.a = &queries[0, 0]
        gemm.lda = self.depth
        gemm.a_type = ek.EK_S8
        gemm.a_zero_point = 0
        gemm.b = self.packed
        gemm.num_threads = num_threads
        cdef ek.ek_status status
        with nogil:
            status = api.gemm_s32(&gemm, &out[0, 0], self.count * sizeof(int32_t))
        check(status)
