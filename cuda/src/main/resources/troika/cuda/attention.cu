// Attention of 16-bit numbers on tensor cores, after Dao et al. 2022 and 2023. AttentionTile (Java) defines TYPE (bf16
// or f16), PADDED (the head's size, rounded up to 32), FORWARD_KEYS, BACKWARD_ROWS, STAGES and HALVES.
#ifndef PADDED
#define TYPE bf16
#define PADDED 128
#define FORWARD_KEYS 64
#define BACKWARD_ROWS 32
#define STAGES 2
#define HALVES 1
#endif

// Tiles of 16-bit numbers for mma.sync.m16n8k16: rows in shared memory are PADDED head columns and 8 more, so that the
// eight rows of an ldmatrix lie in different banks. Columns beyond the head's size and rows beyond a sequence are zero.

__device__ __forceinline__ void multiply(bf16, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply(f16, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

typedef unsigned short half_bits;

__device__ __forceinline__ unsigned pack(float first, float second) { return floats_to_word(TYPE(), first, second); }

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float NO_SCORE = -3.0e38f;

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ unsigned shared_address(const void *at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

// Copies 16 bytes, or writes 16 zeros where bytes is 0; complete after copies_wait and a barrier.
__device__ __forceinline__ void copy16(void *to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void copy4(void *to, const void *from, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING> __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Rows first ... first + ROWS - 1 of a matrix whose rows lie stride elements apart; those from limit on are zero.
template <int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(half_bits *tile, const half_bits *matrix, long long stride, int first,
                                                 int limit, int head_size, int vectors) {
    constexpr int CHUNKS = PADDED / 8;
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        int row = i / CHUNKS, column = i % CHUNKS * 8;
        half_bits *to = tile + row * (PADDED + 8) + column;
        bool valid = first + row < limit;
        const half_bits *from = valid ? matrix + (first + row) * stride + column : matrix;
        if (vectors) {
            bool inside = valid && column < head_size;
            copy16(to, inside ? from : matrix, inside ? 16 : 0);
        } else {
            for (int e = 0; e < 8; e += 2) {
                bool inside = valid && column + e < head_size;
                *reinterpret_cast<unsigned *>(to + e) = inside ? *reinterpret_cast<const unsigned *>(from + e) : 0u;
            }
        }
    }
}

__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const half_bits *at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(at))
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], const half_bits *at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(at))
                 : "memory");
}

// c = a bT: 16 rows of tile a with all COLUMNS rows of tile b. A lane holds, of columns 8 n ... 8 n + 7, columns
// 2 (lane % 4) and the next, of rows lane / 4 (c[n][0], c[n][1]) and lane / 4 + 8 (c[n][2], c[n][3]).
template <int COLUMNS>
__device__ __forceinline__ void multiply_rows(float (&c)[COLUMNS / 8][4], const half_bits *a, const half_bits *b,
                                                     int lane) {
    const half_bits *a_at = a + lane % 16 * (PADDED + 8) + lane / 16 * 8;
    const half_bits *b_at = b + (lane % 8 + lane / 16 * 8) * (PADDED + 8) + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            c[n][e] = 0;
#pragma unroll
    for (int k = 0; k < PADDED; k += 16) {
        unsigned af[4];
        load_matrices(af, a_at + k);
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 16) {
            unsigned bf[4];
            load_matrices(bf, b_at + n * (PADDED + 8) + k);
            multiply(TYPE(), c[n / 8], af, bf[0], bf[1]);
            multiply(TYPE(), c[n / 8 + 1], af, bf[2], bf[3]);
        }
    }
}

// c += p x: p are the 16 x INNER numbers that multiply_rows left in the lanes, rounded; x the INNER rows of a tile, of
// which WIDTH columns count.
template <int INNER, int WIDTH>
__device__ __forceinline__ void accumulate(float (&c)[WIDTH / 8][4], const float (&p)[INNER / 8][4],
                                                  const half_bits *x, int lane) {
    const half_bits *x_at = x + lane % 16 * (PADDED + 8) + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < INNER; k += 16) {
        const float *left = p[k / 8], *right = p[k / 8 + 1];
        unsigned af[4] = {pack(left[0], left[1]), pack(left[2], left[3]), pack(right[0], right[1]), pack(right[2], right[3])};
#pragma unroll
        for (int n = 0; n < WIDTH; n += 16) {
            unsigned bf[4];
            load_matrices_transposed(bf, x_at + k * (PADDED + 8) + n);
            multiply(TYPE(), c[n / 8], af, bf[0], bf[1]);
            multiply(TYPE(), c[n / 8 + 1], af, bf[2], bf[3]);
        }
    }
}

// The first key that query i of a sequence sees; starts never decrease along a sequence.
__device__ __forceinline__ int document_start(const int *positions, int i) {
    return positions ? max(0, i - positions[i]) : 0;
}

// flags, if given, say for each group of sequences whether these kernels are to do what cuDNN could not.
__device__ __forceinline__ bool unwanted(const int *flags, int sequences_of_flag, int sequence) {
    return flags && flags[sequence / sequences_of_flag] == 0;
}

// Writes 16 rows x WIDTH columns as multiply_rows lays them out, rows first ... within limit.
template <int WIDTH>
__device__ __forceinline__ void store_rows(half_bits *matrix, long long stride, int first, int limit, int column,
                                                  int head_size, const float (&c)[WIDTH / 8][4], float scale0,
                                                  float scale1, int lane) {
    int row = first + lane / 4;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
        int at = column + n * 8 + lane % 4 * 2;
        if (at < head_size) {
            if (row < limit)
                *reinterpret_cast<unsigned *>(matrix + row * stride + at) = pack(c[n][0] * scale0, c[n][1] * scale0);
            if (row + 8 < limit)
                *reinterpret_cast<unsigned *>(matrix + (row + 8) * stride + at) = pack(c[n][2] * scale1, c[n][3] * scale1);
        }
    }
}

// Attention forward (Dao et al. 2022) on tensor cores: one block for 64 queries of a head, 16 to a warp.

constexpr int FORWARD_QUERIES = 64;
constexpr int FORWARD_THREADS = 128;

extern "C" __global__ void __launch_bounds__(FORWARD_THREADS)
    attention_forward(const half_bits *qkv, const int *all_positions, half_bits *out, float *log_sum_exp, int sequence,
                      int heads, int key_value_heads, int head_size, float scale, int vectors, const int *flags,
                      int sequences_of_flag) {
    constexpr int KEYS = FORWARD_KEYS;
    int batch = blockIdx.z, head = blockIdx.y;
    if (unwanted(flags, sequences_of_flag, batch)) return;
    extern __shared__ __align__(16) half_bits shared[];
    half_bits *q_tile = shared;
    half_bits *k_tile = q_tile + FORWARD_QUERIES * (PADDED + 8);
    half_bits *v_tile = k_tile + KEYS * (PADDED + 8);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // The last queries see the most keys: first.
    int query0 = (gridDim.x - 1 - blockIdx.x) * FORWARD_QUERIES;
    int key_value_head = head / (heads / key_value_heads);
    long long row = static_cast<long long>(heads + 2 * key_value_heads) * head_size;
    const half_bits *rows = qkv + batch * row * sequence;
    const half_bits *keys = rows + (heads + key_value_head) * head_size;
    const half_bits *values = keys + key_value_heads * head_size;
    const int *positions = all_positions ? all_positions + static_cast<long long>(batch) * sequence : nullptr;

    int queries_end = min(query0 + FORWARD_QUERIES, sequence);
    int first_start = document_start(positions, query0);
    int last_start = document_start(positions, queries_end - 1);
    int i0 = query0 + warp * 16 + lane / 4;
    int start0 = i0 < sequence ? document_start(positions, i0) : 0;
    int start1 = i0 + 8 < sequence ? document_start(positions, i0 + 8) : 0;
    float scale2 = scale * LOG2_E;

    load_tile<FORWARD_QUERIES, FORWARD_THREADS>(q_tile, rows + head * head_size, row, query0, sequence, head_size,
                                                        vectors);
    int key0 = first_start / KEYS * KEYS;
    load_tile<KEYS, FORWARD_THREADS>(k_tile, keys, row, key0, sequence, head_size, vectors);
    copies_commit();

    float o[PADDED / 8][4];
#pragma unroll
    for (int n = 0; n < PADDED / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            o[n][e] = 0;
    float most[2] = {NO_SCORE, NO_SCORE}, sum[2] = {0, 0};

    for (; key0 < queries_end; key0 += KEYS) {
        copies_wait<0>();
        __syncthreads(); // the keys are there, the values before them no longer used
        load_tile<KEYS, FORWARD_THREADS>(v_tile, values, row, key0, sequence, head_size, vectors);
        copies_commit();
        float s[KEYS / 8][4];
        multiply_rows<KEYS>(s, q_tile + warp * 16 * (PADDED + 8), k_tile, lane);
        copies_wait<0>();
        __syncthreads(); // the values are there, the keys no longer used
        if (key0 + KEYS < queries_end)
            load_tile<KEYS, FORWARD_THREADS>(k_tile, keys, row, key0 + KEYS, sequence, head_size, vectors);
        copies_commit();

        if (key0 + KEYS - 1 > query0 || key0 < last_start) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int key = key0 + n * 8 + lane % 4 * 2 + e % 2;
                    bool seen = e < 2 ? key <= i0 && key >= start0 : key <= i0 + 8 && key >= start1;
                    s[n][e] = seen ? s[n][e] : -__int_as_float(0x7f800000);
                }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = most[r];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
                top = fmaxf(top, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
            float old = exp2_fast((most[r] - top) * scale2); // NO_SCORE is finite: 1 while no key was seen
            float base = top * scale2;
            most[r] = top;
            float added = 0;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                s[n][2 * r] = exp2_fast(s[n][2 * r] * scale2 - base);
                s[n][2 * r + 1] = exp2_fast(s[n][2 * r + 1] * scale2 - base);
                added += s[n][2 * r] + s[n][2 * r + 1];
            }
            sum[r] = sum[r] * old + added;
#pragma unroll
            for (int n = 0; n < PADDED / 8; n++) {
                o[n][2 * r] *= old;
                o[n][2 * r + 1] *= old;
            }
        }
        accumulate<KEYS, PADDED>(o, s, v_tile, lane);
    }

    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 1);
        sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 2);
        inverse[r] = 1 / sum[r];
        int i = i0 + 8 * r;
        if (i < sequence && lane % 4 == 0)
            log_sum_exp[(static_cast<long long>(batch) * heads + head) * sequence + i] = most[r] * scale + logf(sum[r]);
    }
    long long out_row = static_cast<long long>(heads) * head_size;
    store_rows<PADDED>(out + batch * out_row * sequence + head * head_size, out_row, query0 + warp * 16, sequence, 0,
                             head_size, o, inverse[0], inverse[1], lane);
}

// Backward: scores are computed again. A block is the only one to write its rows, and adds up in a fixed order.

// delta = the sum of gradOut x out over a head's columns, [batch, heads, sequence]: a warp for each.
extern "C" __global__ void __launch_bounds__(256)
    attention_delta(const half_bits *grad_out, const half_bits *out, float *delta, int sequence, int heads, int head_size,
                    long long rows, const int *flags, int sequences_of_flag) {
    long long index = blockIdx.x * 8ll + threadIdx.x / 32;
    if (index >= rows) return;
    long long token = index / heads;
    int head = index % heads, batch = token / sequence, i = token % sequence;
    if (unwanted(flags, sequences_of_flag, batch)) return;
    float sum = 0;
    for (int d = threadIdx.x % 32 * 2; d < head_size; d += 64) {
        float a[2], b[2];
        word_to_floats(TYPE(), *reinterpret_cast<const unsigned *>(grad_out + index * head_size + d), a);
        word_to_floats(TYPE(), *reinterpret_cast<const unsigned *>(out + index * head_size + d), b);
        sum += a[0] * b[0] + a[1] * b[1];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[(static_cast<long long>(batch) * heads + head) * sequence + i] = sum;
}

// Gradients of 64 keys and values of a head, 16 to a warp, over all query heads and queries that see them. Scores are
// computed transposed, so that a warp's own are what it multiplies with next. HALVES 2: a second set of four warps
// computes the same scores for the other half of the columns, which are too many for one's registers.
constexpr int BACKWARD_KEYS = 64;

extern "C" __global__ void __launch_bounds__(128 * HALVES)
    attention_backward_keys(const half_bits *grad_out, const half_bits *qkv, const int *all_positions,
                            const float *log_sum_exp, const float *delta, half_bits *grad_qkv, int sequence,
                            int heads, int key_value_heads, int head_size, float scale, int vectors,
                            const int *flags, int sequences_of_flag) {
    constexpr int QUERIES = BACKWARD_ROWS, THREADS = 128 * HALVES, WIDTH = PADDED / HALVES;
    // A stage: the queries, the gradients of their outputs, and three numbers for each query.
    constexpr int STAGE = 2 * QUERIES * (PADDED + 8) + 3 * 2 * QUERIES;
    int batch = blockIdx.z, key_value_head = blockIdx.y, key0 = blockIdx.x * BACKWARD_KEYS;
    if (unwanted(flags, sequences_of_flag, batch)) return;
    extern __shared__ __align__(16) half_bits shared[];
    half_bits *k_tile = shared;
    half_bits *v_tile = k_tile + BACKWARD_KEYS * (PADDED + 8);
    half_bits *stages = v_tile + BACKWARD_KEYS * (PADDED + 8);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, column = threadIdx.x / 128 * WIDTH;
    int group = heads / key_value_heads;
    long long row = static_cast<long long>(heads + 2 * key_value_heads) * head_size;
    long long out_row = static_cast<long long>(heads) * head_size;
    const half_bits *rows = qkv + batch * row * sequence;
    const half_bits *grad_rows = grad_out + batch * out_row * sequence;
    int key_column = (heads + key_value_head) * head_size, value_column = key_column + key_value_heads * head_size;
    const int *positions = all_positions ? all_positions + static_cast<long long>(batch) * sequence : nullptr;
    load_tile<BACKWARD_KEYS, THREADS>(k_tile, rows + key_column, row, key0, sequence, head_size, vectors);
    load_tile<BACKWARD_KEYS, THREADS>(v_tile, rows + value_column, row, key0, sequence, head_size, vectors);
    copies_commit();

    // Tiles of queries from the diagonal on, until one whose first query, and so all after, sees none of these keys.
    int last_key = min(key0 + BACKWARD_KEYS, sequence) - 1;
    int tiles = (sequence - key0 + QUERIES - 1) / QUERIES;
    if (positions) {
        int seeing = 0;
        for (int first = 0; first < tiles; first += THREADS) {
            int query = key0 + (first + static_cast<int>(threadIdx.x)) * QUERIES;
            seeing += __syncthreads_count(query < sequence && document_start(positions, query) <= last_key);
        }
        tiles = seeing;
    }

    auto load = [&](int turn) {
        int head = key_value_head * group + turn / tiles, query0 = key0 + turn % tiles * QUERIES;
        half_bits *q_tile = stages + turn % STAGES * STAGE;
        half_bits *g_tile = q_tile + QUERIES * (PADDED + 8);
        float *numbers = reinterpret_cast<float *>(g_tile + QUERIES * (PADDED + 8));
        load_tile<QUERIES, THREADS>(q_tile, rows + head * head_size, row, query0, sequence, head_size, vectors);
        load_tile<QUERIES, THREADS>(g_tile, grad_rows + head * head_size, out_row, query0, sequence, head_size,
                                            vectors);
        if (threadIdx.x < QUERIES) {
            int i = query0 + threadIdx.x, bytes = i < sequence ? 4 : 0;
            int from = i < sequence ? i : 0;
            long long at = (static_cast<long long>(batch) * heads + head) * sequence + from;
            copy4(numbers + threadIdx.x, log_sum_exp + at, bytes);
            copy4(numbers + QUERIES + threadIdx.x, delta + at, bytes);
            if (positions) copy4(numbers + 2 * QUERIES + threadIdx.x, positions + from, bytes);
        }
        copies_commit();
    };

    float grad_k[WIDTH / 8][4], grad_v[WIDTH / 8][4];
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            grad_k[n][e] = grad_v[n][e] = 0;
    int j0 = key0 + warp * 16 + lane / 4;
    float scale2 = scale * LOG2_E;
    int turns = group * tiles;
    if (STAGES == 2) load(0);
    for (int turn = 0; turn < turns; turn++) {
        if (STAGES == 1) load(turn);
        else if (turn + 1 < turns) load(turn + 1);
        if (STAGES == 2 && turn + 1 < turns) copies_wait<1>();
        else copies_wait<0>();
        __syncthreads();
        const half_bits *q_tile = stages + turn % STAGES * STAGE;
        const half_bits *g_tile = q_tile + QUERIES * (PADDED + 8);
        const float *numbers = reinterpret_cast<const float *>(g_tile + QUERIES * (PADDED + 8));
        int query0 = key0 + turn % tiles * QUERIES;
        float p[QUERIES / 8][4], g[QUERIES / 8][4];
        multiply_rows<QUERIES>(p, k_tile + warp * 16 * (PADDED + 8), q_tile, lane);
        bool whole = query0 >= last_key && query0 + QUERIES <= sequence;
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int at = n * 8 + lane % 4 * 2 + e % 2, i = query0 + at, j = e < 2 ? j0 : j0 + 8;
                bool seen = whole || (i < sequence && j <= i);
                if (positions) seen = seen && j >= i - __float_as_int(numbers[2 * QUERIES + at]);
                p[n][e] = seen ? exp2_fast(p[n][e] * scale2 - numbers[at] * LOG2_E) : 0.0f;
            }
        accumulate<QUERIES, WIDTH>(grad_v, p, g_tile + column, lane);
        multiply_rows<QUERIES>(g, v_tile + warp * 16 * (PADDED + 8), g_tile, lane);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                p[n][e] *= g[n][e] - numbers[QUERIES + n * 8 + lane % 4 * 2 + e % 2];
        accumulate<QUERIES, WIDTH>(grad_k, p, q_tile + column, lane);
        __syncthreads(); // this stage is free again
    }
    half_bits *grads = grad_qkv + batch * row * sequence;
    store_rows<WIDTH>(grads + key_column, row, key0 + warp * 16, sequence, column, head_size, grad_k, scale, scale, lane);
    store_rows<WIDTH>(grads + value_column, row, key0 + warp * 16, sequence, column, head_size, grad_v, 1, 1, lane);
}

// Gradients of 64 queries of a head, 16 to a warp.
extern "C" __global__ void __launch_bounds__(128, 1)
    attention_backward_queries(const half_bits *grad_out, const half_bits *qkv, const int *all_positions,
                               const float *log_sum_exp, const float *delta, half_bits *grad_qkv, int sequence,
                               int heads, int key_value_heads, int head_size, float scale, int vectors,
                               const int *flags, int sequences_of_flag) {
    constexpr int THREADS = 128, QUERIES = 64, KEYS = BACKWARD_ROWS, STAGE = 2 * KEYS * (PADDED + 8);
    int batch = blockIdx.z, head = blockIdx.y;
    if (unwanted(flags, sequences_of_flag, batch)) return;
    extern __shared__ __align__(16) half_bits shared[];
    half_bits *q_tile = shared;
    half_bits *g_tile = q_tile + QUERIES * (PADDED + 8);
    half_bits *stages = g_tile + QUERIES * (PADDED + 8);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int query0 = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    int key_value_head = head / (heads / key_value_heads);
    long long row = static_cast<long long>(heads + 2 * key_value_heads) * head_size;
    long long out_row = static_cast<long long>(heads) * head_size;
    const half_bits *rows = qkv + batch * row * sequence;
    const half_bits *keys = rows + (heads + key_value_head) * head_size;
    const half_bits *values = keys + key_value_heads * head_size;
    const int *positions = all_positions ? all_positions + static_cast<long long>(batch) * sequence : nullptr;
    load_tile<QUERIES, THREADS>(q_tile, rows + head * head_size, row, query0, sequence, head_size, vectors);
    load_tile<QUERIES, THREADS>(g_tile, grad_out + batch * out_row * sequence + head * head_size, out_row, query0,
                                        sequence, head_size, vectors);
    copies_commit();

    int queries_end = min(query0 + QUERIES, sequence);
    int first_start = document_start(positions, query0);
    int last_start = document_start(positions, queries_end - 1);
    int start[2];
    float log_sum[2], row_delta[2];
    int i0 = query0 + warp * 16 + lane / 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int i = i0 + 8 * r;
        long long at = (static_cast<long long>(batch) * heads + head) * sequence + i;
        start[r] = i < sequence ? document_start(positions, i) : 0;
        log_sum[r] = i < sequence ? log_sum_exp[at] * LOG2_E : 0;
        row_delta[r] = i < sequence ? delta[at] : 0;
    }
    float scale2 = scale * LOG2_E;
    int first_tile = first_start / KEYS, end_tile = (queries_end + KEYS - 1) / KEYS;
    auto load = [&](int tile) {
        half_bits *k_tile = stages + tile % STAGES * STAGE;
        load_tile<KEYS, THREADS>(k_tile, keys, row, tile * KEYS, sequence, head_size, vectors);
        load_tile<KEYS, THREADS>(k_tile + KEYS * (PADDED + 8), values, row, tile * KEYS, sequence, head_size,
                                         vectors);
        copies_commit();
    };

    float grad_q[PADDED / 8][4];
#pragma unroll
    for (int n = 0; n < PADDED / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            grad_q[n][e] = 0;
    if (STAGES == 2) load(first_tile);
    for (int tile = first_tile; tile < end_tile; tile++) {
        if (STAGES == 1) load(tile);
        else if (tile + 1 < end_tile) load(tile + 1);
        if (STAGES == 2 && tile + 1 < end_tile) copies_wait<1>();
        else copies_wait<0>();
        __syncthreads();
        const half_bits *k_tile = stages + tile % STAGES * STAGE;
        const half_bits *v_tile = k_tile + KEYS * (PADDED + 8);
        int key0 = tile * KEYS;
        bool whole = key0 + KEYS - 1 <= query0 && key0 >= last_start;
        float p[KEYS / 8][4], g[KEYS / 8][4];
        multiply_rows<KEYS>(p, q_tile + warp * 16 * (PADDED + 8), k_tile, lane);
        multiply_rows<KEYS>(g, g_tile + warp * 16 * (PADDED + 8), v_tile, lane);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int r = e / 2, key = key0 + n * 8 + lane % 4 * 2 + e % 2;
                bool seen = whole || (key <= i0 + 8 * r && key >= start[r] && i0 + 8 * r < sequence);
                float x = seen ? exp2_fast(p[n][e] * scale2 - log_sum[r]) : 0.0f;
                p[n][e] = x * (g[n][e] - row_delta[r]);
            }
        accumulate<KEYS, PADDED>(grad_q, p, k_tile, lane);
        __syncthreads(); // this stage is free again
    }
    store_rows<PADDED>(grad_qkv + batch * row * sequence + head * head_size, row, query0 + warp * 16, sequence, 0,
                          head_size, grad_q, scale, scale, lane);
}
