// One new token against a cache. A block takes CHUNK_ROWS rows for a query head, a second kernel adds up what the blocks
// of a head found, in order. The number of rows is known on the card only: chunks behind the position find nothing.

constexpr int DECODE_WARPS = 4;
constexpr int DECODE_PAIRS = 4;     // of columns, a lane: up to 256 columns
constexpr int DECODE_ROWS = 4;      // that a warp has in flight
constexpr float DECODE_NONE = -3.0e38f;

__device__ __forceinline__ void pair_of(const float *at, float *out) {
    float2 pair = *reinterpret_cast<const float2 *>(at);
    out[0] = pair.x;
    out[1] = pair.y;
}

__device__ __forceinline__ void pair_of(const bf16 *at, float *out) {
    word_to_floats(bf16(), *reinterpret_cast<const unsigned *>(at), out);
}

__device__ __forceinline__ void pair_of(const f16 *at, float *out) {
    word_to_floats(f16(), *reinterpret_cast<const unsigned *>(at), out);
}

// partial: for each head and chunk, the greatest score, the sum of exponentials, and head_size sums of values.
template <typename T>
__device__ __forceinline__ void decode(const T *qkv, const int *position, T *keys, T *values, float *partial, int heads,
                                       int key_value_heads, int head_size, int chunk_rows, float scale) {
    int chunk = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int group = heads / key_value_heads, key_value_head = head / group;
    int last = *position, first = chunk * chunk_rows, end = min(first + chunk_rows, last + 1);
    long long stride = static_cast<long long>(key_value_heads) * head_size;
    const T *new_key = qkv + (heads + key_value_head) * head_size, *new_value = new_key + stride;
    T *key_column = keys + key_value_head * head_size, *value_column = values + key_value_head * head_size;
    // Other blocks take the new row from qkv, not from the cache, where it may not have arrived.
    if (head % group == 0 && first <= last && last < end)
        for (int d = threadIdx.x; d < head_size; d += blockDim.x) {
            key_column[last * stride + d] = new_key[d];
            value_column[last * stride + d] = new_value[d];
        }
    float query[DECODE_PAIRS][2], sums[DECODE_PAIRS][2], most = DECODE_NONE, sum = 0;
#pragma unroll
    for (int c = 0; c < DECODE_PAIRS; c++) {
        query[c][0] = query[c][1] = sums[c][0] = sums[c][1] = 0;
        if (2 * lane + 64 * c < head_size) pair_of(qkv + head * head_size + 2 * lane + 64 * c, query[c]);
    }
    for (int row0 = first + warp * DECODE_ROWS; row0 < end; row0 += DECODE_WARPS * DECODE_ROWS) {
        float score[DECODE_ROWS], top = most;
#pragma unroll
        for (int r = 0; r < DECODE_ROWS; r++) {
            int row = min(row0 + r, end - 1);
            const T *key = row == last ? new_key : key_column + row * stride;
            float dot = 0;
#pragma unroll
            for (int c = 0; c < DECODE_PAIRS; c++)
                if (2 * lane + 64 * c < head_size) {
                    float x[2];
                    pair_of(key + 2 * lane + 64 * c, x);
                    dot += query[c][0] * x[0] + query[c][1] * x[1];
                }
            score[r] = row0 + r < end ? warp_sum(dot) * scale : DECODE_NONE;
            top = fmaxf(top, score[r]);
        }
        float old = __expf(most - top);
        most = top;
        sum *= old;
#pragma unroll
        for (int c = 0; c < DECODE_PAIRS; c++) {
            sums[c][0] *= old;
            sums[c][1] *= old;
        }
#pragma unroll
        for (int r = 0; r < DECODE_ROWS; r++)
            if (row0 + r < end) {
                const T *value = row0 + r == last ? new_value : value_column + (row0 + r) * stride;
                float p = __expf(score[r] - top);
                sum += p;
#pragma unroll
                for (int c = 0; c < DECODE_PAIRS; c++)
                    if (2 * lane + 64 * c < head_size) {
                        float x[2];
                        pair_of(value + 2 * lane + 64 * c, x);
                        sums[c][0] += p * x[0];
                        sums[c][1] += p * x[1];
                    }
            }
    }
    __shared__ float warp_most[DECODE_WARPS], warp_sums[DECODE_WARPS], columns[DECODE_WARPS][64 * DECODE_PAIRS];
    if (lane == 0) {
        warp_most[warp] = most;
        warp_sums[warp] = sum;
    }
#pragma unroll
    for (int c = 0; c < DECODE_PAIRS; c++) {
        columns[warp][2 * lane + 64 * c] = sums[c][0];
        columns[warp][2 * lane + 64 * c + 1] = sums[c][1];
    }
    __syncthreads();
    float top = DECODE_NONE, total = 0;
    for (int w = 0; w < DECODE_WARPS; w++)
        top = fmaxf(top, warp_most[w]);
    for (int w = 0; w < DECODE_WARPS; w++)
        total += warp_sums[w] * __expf(warp_most[w] - top);
    float *to = partial + (static_cast<long long>(head) * gridDim.x + chunk) * (head_size + 2);
    if (threadIdx.x == 0) {
        to[0] = top;
        to[1] = total;
    }
    for (int d = threadIdx.x; d < head_size; d += blockDim.x) {
        float column = 0;
        for (int w = 0; w < DECODE_WARPS; w++)
            column += columns[w][d] * __expf(warp_most[w] - top);
        to[2 + d] = column;
    }
}

template <typename T>
__device__ __forceinline__ void combine(const float *partial, T *out, int chunks, int head_size) {
    const float *from = partial + static_cast<long long>(blockIdx.x) * chunks * (head_size + 2);
    float top = DECODE_NONE, total = 0;
    for (int chunk = 0; chunk < chunks; chunk++)
        top = fmaxf(top, from[static_cast<long long>(chunk) * (head_size + 2)]);
    for (int chunk = 0; chunk < chunks; chunk++) {
        const float *at = from + static_cast<long long>(chunk) * (head_size + 2);
        total += at[1] * __expf(at[0] - top);
    }
    for (int d = threadIdx.x; d < head_size; d += blockDim.x) {
        float column = 0;
        for (int chunk = 0; chunk < chunks; chunk++) {
            const float *at = from + static_cast<long long>(chunk) * (head_size + 2);
            column += at[2 + d] * __expf(at[0] - top);
        }
        out[blockIdx.x * head_size + d] = from_float<T>(column / total);
    }
}

#define ATTENTION_DECODE(NAME, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(32 * DECODE_WARPS) attention_decode_##NAME(                            \
        const T *qkv, const int *position, T *keys, T *values, float *partial, int heads, int key_value_heads,          \
        int head_size, int chunk_rows, float scale) {                                                                   \
        decode(qkv, position, keys, values, partial, heads, key_value_heads, head_size, chunk_rows, scale);             \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) attention_combine_##NAME(const float *partial, T *out,            \
                                                                               int chunks, int head_size) {             \
        combine(partial, out, chunks, head_size);                                                                       \
    }

ATTENTION_DECODE(f32, float)
ATTENTION_DECODE(bf16, bf16)
ATTENTION_DECODE(f16, f16)
