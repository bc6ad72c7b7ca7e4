// Attention of F32 numbers, in fp32 throughout. AttentionTile (Java) defines PADDED (the head's size, rounded up to 32)
// and TILE: tiles are TILE queries by TILE keys, 32 or 16. A block has 256 threads in 16 rows of 16: a thread has
// rows ty, ty + 16 of a tile, and either columns tx, tx + 16 of its scores or columns 2 tx + 32 c of the head.
#ifndef PADDED
#define PADDED 128
#define TILE 32
#endif

constexpr int THREADS = 256;
constexpr int ROW = PADDED + 4; // rows of consecutive threads lie in different banks
constexpr int SCORES = TILE + 1;
constexpr int R = TILE / 16;
constexpr int C = PADDED / 32;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float NO_SCORE = -3.0e38f; // finite: differences of two are no NaN

// Rows first ... first + TILE - 1 of a matrix whose rows lie stride elements apart; those from limit on are zero.
__device__ __forceinline__ void load_tile(float *tile, const float *matrix, long long stride, int first, int limit,
                                          int head_size) {
    for (int i = threadIdx.x; i < TILE * (PADDED / 2); i += THREADS) {
        int row = i / (PADDED / 2), column = i % (PADDED / 2) * 2;
        bool valid = first + row < limit && column < head_size;
        const float *from = matrix + (first + row) * stride + column;
        float2 x = valid ? *reinterpret_cast<const float2 *>(from) : make_float2(0, 0);
        *reinterpret_cast<float2 *>(tile + row * ROW + column) = x;
    }
}

// c = a bT
__device__ __forceinline__ void multiply_rows(float (&c)[R][R], const float *a, const float *b, int ty, int tx) {
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int s = 0; s < R; s++)
            c[r][s] = 0;
#pragma unroll 4
    for (int d = 0; d < PADDED; d += 4) {
        float4 x[R], y[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            x[r] = *reinterpret_cast<const float4 *>(a + (ty + 16 * r) * ROW + d);
            y[r] = *reinterpret_cast<const float4 *>(b + (tx + 16 * r) * ROW + d);
        }
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int s = 0; s < R; s++)
                c[r][s] += x[r].x * y[s].x + x[r].y * y[s].y + x[r].z * y[s].z + x[r].w * y[s].w;
    }
}

// c += p x, or with TRANSPOSED pT x
template <bool TRANSPOSED>
__device__ __forceinline__ void accumulate(float (&c)[R][C][2], const float *p, const float *x, int ty, int tx) {
#pragma unroll 4
    for (int k = 0; k < TILE; k++) {
        float factor[R];
#pragma unroll
        for (int r = 0; r < R; r++)
            factor[r] = TRANSPOSED ? p[k * SCORES + ty + 16 * r] : p[(ty + 16 * r) * SCORES + k];
#pragma unroll
        for (int n = 0; n < C; n++) {
            float2 y = *reinterpret_cast<const float2 *>(x + k * ROW + 2 * tx + 32 * n);
#pragma unroll
            for (int r = 0; r < R; r++) {
                c[r][n][0] += factor[r] * y.x;
                c[r][n][1] += factor[r] * y.y;
            }
        }
    }
}

__device__ __forceinline__ void clear(float (&c)[R][C][2]) {
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int n = 0; n < C; n++)
            c[r][n][0] = c[r][n][1] = 0;
}

__device__ __forceinline__ void store_rows(float *matrix, long long stride, int first, int limit, int head_size,
                                           const float (&c)[R][C][2], const float (&scale)[R], int ty, int tx) {
#pragma unroll
    for (int r = 0; r < R; r++) {
        int row = first + ty + 16 * r;
#pragma unroll
        for (int n = 0; n < C; n++) {
            int column = 2 * tx + 32 * n;
            if (row < limit && column < head_size)
                *reinterpret_cast<float2 *>(matrix + row * stride + column) =
                    make_float2(c[r][n][0] * scale[r], c[r][n][1] * scale[r]);
        }
    }
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The first key that query i of a sequence sees; starts never decrease along a sequence.
__device__ __forceinline__ int document_start(const int *positions, int i) {
    return positions ? max(0, i - positions[i]) : 0;
}

// Where a block's sequence and heads lie.
struct Place {
    long long row, out_row, sums; // of a row of qkv, of a row of out; where log-sum-exps of query head 0 begin
    const int *positions;

    __device__ Place(const int *all, int batch, int sequence, int heads, int key_value_heads, int head_size) {
        row = static_cast<long long>(heads + 2 * key_value_heads) * head_size;
        out_row = static_cast<long long>(heads) * head_size;
        sums = static_cast<long long>(batch) * heads * sequence;
        positions = all ? all + static_cast<long long>(batch) * sequence : nullptr;
    }
};

// A block for TILE queries of a head. Keys and values take turns in one tile.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_forward(const float *qkv, const int *all_positions, float *out, float *log_sum_exp, int sequence, int heads,
                      int key_value_heads, int head_size, float scale) {
    extern __shared__ __align__(16) float shared[];
    float *q_tile = shared, *x_tile = q_tile + TILE * ROW, *p_tile = x_tile + TILE * ROW;
    int batch = blockIdx.z, head = blockIdx.y, ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    int query0 = (gridDim.x - 1 - blockIdx.x) * TILE;
    Place place(all_positions, batch, sequence, heads, key_value_heads, head_size);
    const float *rows = qkv + batch * place.row * sequence;
    const float *keys = rows + (heads + head / (heads / key_value_heads)) * head_size;
    const float *values = keys + key_value_heads * head_size;
    load_tile(q_tile, rows + head * head_size, place.row, query0, sequence, head_size);
    int queries_end = min(query0 + TILE, sequence), start[R];
    float o[R][C][2], most[R], sum[R];
    clear(o);
#pragma unroll
    for (int r = 0; r < R; r++) {
        int i = query0 + ty + 16 * r;
        start[r] = i < sequence ? document_start(place.positions, i) : 0;
        most[r] = NO_SCORE;
        sum[r] = 0;
    }
    for (int key0 = document_start(place.positions, query0) / TILE * TILE; key0 < queries_end; key0 += TILE) {
        load_tile(x_tile, keys, place.row, key0, sequence, head_size);
        __syncthreads();
        float s[R][R];
        multiply_rows(s, q_tile, x_tile, ty, tx);
        __syncthreads(); // the keys are no longer used
        load_tile(x_tile, values, place.row, key0, sequence, head_size);
#pragma unroll
        for (int r = 0; r < R; r++) {
            int i = query0 + ty + 16 * r;
            float top = most[r];
#pragma unroll
            for (int c = 0; c < R; c++) {
                int key = key0 + tx + 16 * c;
                s[r][c] = key <= i && key >= start[r] ? s[r][c] * scale : -__int_as_float(0x7f800000);
                top = fmaxf(top, s[r][c]);
            }
#pragma unroll
            for (int offset = 8; offset > 0; offset /= 2)
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, offset));
            float old = exp2_fast((most[r] - top) * LOG2_E);
            most[r] = top;
            sum[r] *= old;
#pragma unroll
            for (int c = 0; c < R; c++) {
                float p = exp2_fast((s[r][c] - top) * LOG2_E);
                sum[r] += p;
                p_tile[(ty + 16 * r) * SCORES + tx + 16 * c] = p;
            }
#pragma unroll
            for (int n = 0; n < C; n++) {
                o[r][n][0] *= old;
                o[r][n][1] *= old;
            }
        }
        __syncthreads();
        accumulate<false>(o, p_tile, x_tile, ty, tx);
        __syncthreads(); // the values are no longer used
    }
    float inverse[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
        for (int offset = 8; offset > 0; offset /= 2)
            sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], offset);
        inverse[r] = 1 / sum[r];
        int i = query0 + ty + 16 * r;
        if (i < sequence && tx == 0)
            log_sum_exp[place.sums + static_cast<long long>(head) * sequence + i] = most[r] + logf(sum[r]);
    }
    store_rows(out + batch * place.out_row * sequence + head * head_size, place.out_row, query0, sequence, head_size, o,
               inverse, ty, tx);
}

// delta = the sum of gradOut x out over a head's columns, [batch, heads, sequence]: a warp for each.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_delta(const float *grad_out, const float *out, float *delta, int sequence, int heads, int head_size,
                    long long rows) {
    long long index = blockIdx.x * 8ll + threadIdx.x / 32;
    if (index >= rows) return;
    long long token = index / heads, batch = token / sequence;
    float sum = 0;
    for (int d = threadIdx.x % 32; d < head_size; d += 32)
        sum += grad_out[index * head_size + d] * out[index * head_size + d];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[(batch * heads + index % heads) * sequence + token % sequence] = sum;
}

// From scores s and gradients of probabilities g of a thread: probabilities and gradients of scores, into two tiles.
__device__ __forceinline__ void gradients(float (&s)[R][R], float (&g)[R][R], float *p_tile, float *d_tile, int query0,
                                          int key0, int sequence, const int *positions, const float *log_sum_exp,
                                          const float *delta, float scale, int ty, int tx) {
#pragma unroll
    for (int r = 0; r < R; r++) {
        int i = query0 + ty + 16 * r;
        bool valid = i < sequence;
        int start = valid ? document_start(positions, i) : 0;
        float log_sum = valid ? log_sum_exp[i] : 0, row_delta = valid ? delta[i] : 0;
#pragma unroll
        for (int c = 0; c < R; c++) {
            int key = key0 + tx + 16 * c, at = (ty + 16 * r) * SCORES + tx + 16 * c;
            float p = valid && key <= i && key >= start ? exp2_fast((s[r][c] * scale - log_sum) * LOG2_E) : 0;
            p_tile[at] = p;
            d_tile[at] = p * (g[r][c] - row_delta) * scale;
        }
    }
}

// Gradients of TILE keys and values of a head, over all query heads and queries that see them, in order.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_backward_keys(const float *grad_out, const float *qkv, const int *all_positions, const float *log_sum_exp,
                            const float *delta, float *grad_qkv, int sequence, int heads, int key_value_heads,
                            int head_size, float scale) {
    extern __shared__ __align__(16) float shared[];
    float *k_tile = shared, *v_tile = k_tile + TILE * ROW, *q_tile = v_tile + TILE * ROW, *g_tile = q_tile + TILE * ROW;
    float *p_tile = g_tile + TILE * ROW, *d_tile = p_tile + TILE * SCORES;
    int batch = blockIdx.z, key_value_head = blockIdx.y, key0 = blockIdx.x * TILE;
    int ty = threadIdx.x / 16, tx = threadIdx.x % 16, group = heads / key_value_heads;
    Place place(all_positions, batch, sequence, heads, key_value_heads, head_size);
    const float *rows = qkv + batch * place.row * sequence;
    int key_column = (heads + key_value_head) * head_size, value_column = key_column + key_value_heads * head_size;
    load_tile(k_tile, rows + key_column, place.row, key0, sequence, head_size);
    load_tile(v_tile, rows + value_column, place.row, key0, sequence, head_size);
    float grad_k[R][C][2], grad_v[R][C][2];
    clear(grad_k);
    clear(grad_v);
    int last_key = min(key0 + TILE, sequence) - 1;
    for (int head = key_value_head * group; head < (key_value_head + 1) * group; head++) {
        long long sums = place.sums + static_cast<long long>(head) * sequence;
        for (int query0 = key0; query0 < sequence; query0 += TILE) {
            if (document_start(place.positions, query0) > last_key) break;
            load_tile(q_tile, rows + head * head_size, place.row, query0, sequence, head_size);
            load_tile(g_tile, grad_out + batch * place.out_row * sequence + head * head_size, place.out_row, query0,
                      sequence, head_size);
            __syncthreads();
            float s[R][R], g[R][R];
            multiply_rows(s, q_tile, k_tile, ty, tx);
            multiply_rows(g, g_tile, v_tile, ty, tx);
            gradients(s, g, p_tile, d_tile, query0, key0, sequence, place.positions, log_sum_exp + sums, delta + sums,
                      scale, ty, tx);
            __syncthreads();
            accumulate<true>(grad_v, p_tile, g_tile, ty, tx);
            accumulate<true>(grad_k, d_tile, q_tile, ty, tx);
            __syncthreads();
        }
    }
    float one[R];
#pragma unroll
    for (int r = 0; r < R; r++)
        one[r] = 1;
    float *grads = grad_qkv + batch * place.row * sequence;
    store_rows(grads + key_column, place.row, key0, sequence, head_size, grad_k, one, ty, tx);
    store_rows(grads + value_column, place.row, key0, sequence, head_size, grad_v, one, ty, tx);
}

// Gradients of TILE queries of a head.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_backward_queries(const float *grad_out, const float *qkv, const int *all_positions,
                               const float *log_sum_exp, const float *delta, float *grad_qkv, int sequence, int heads,
                               int key_value_heads, int head_size, float scale) {
    extern __shared__ __align__(16) float shared[];
    float *k_tile = shared, *v_tile = k_tile + TILE * ROW, *q_tile = v_tile + TILE * ROW, *g_tile = q_tile + TILE * ROW;
    float *p_tile = g_tile + TILE * ROW, *d_tile = p_tile + TILE * SCORES;
    int batch = blockIdx.z, head = blockIdx.y, ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    int query0 = (gridDim.x - 1 - blockIdx.x) * TILE;
    Place place(all_positions, batch, sequence, heads, key_value_heads, head_size);
    const float *rows = qkv + batch * place.row * sequence;
    const float *keys = rows + (heads + head / (heads / key_value_heads)) * head_size;
    load_tile(q_tile, rows + head * head_size, place.row, query0, sequence, head_size);
    load_tile(g_tile, grad_out + batch * place.out_row * sequence + head * head_size, place.out_row, query0, sequence,
              head_size);
    long long sums = place.sums + static_cast<long long>(head) * sequence;
    int queries_end = min(query0 + TILE, sequence);
    float grad_q[R][C][2];
    clear(grad_q);
    for (int key0 = document_start(place.positions, query0) / TILE * TILE; key0 < queries_end; key0 += TILE) {
        load_tile(k_tile, keys, place.row, key0, sequence, head_size);
        load_tile(v_tile, keys + key_value_heads * head_size, place.row, key0, sequence, head_size);
        __syncthreads();
        float s[R][R], g[R][R];
        multiply_rows(s, q_tile, k_tile, ty, tx);
        multiply_rows(g, g_tile, v_tile, ty, tx);
        gradients(s, g, p_tile, d_tile, query0, key0, sequence, place.positions, log_sum_exp + sums, delta + sums, scale,
                  ty, tx);
        __syncthreads();
        accumulate<false>(grad_q, d_tile, k_tile, ty, tx);
        __syncthreads();
    }
    float one[R];
#pragma unroll
    for (int r = 0; r < R; r++)
        one[r] = 1;
    store_rows(grad_qkv + batch * place.row * sequence + head * head_size, place.row, query0, sequence, head_size, grad_q,
               one, ty, tx);
}
