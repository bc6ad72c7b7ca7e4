// RMSNorm. A row belongs to a warp or, where it is long, to a block; it stays in registers from the sum of its squares
// to the result, but for what exceeds them, which is read again.

// The result, the same in the forward and where the backward makes it again.
__device__ __forceinline__ float normed(float x, float weight, float scale) {
    return x * (weight * scale);
}

template <typename T, int N>
__device__ __forceinline__ void rms_norm(
        const T* __restrict__ x, const T* __restrict__ weight, float epsilon, T* __restrict__ out,
        float* __restrict__ rstd, long long rows, int columns, int threads) {
    constexpr int KEPT = 8;
    __shared__ float shared[WARP];
    long long row = (long long)blockIdx.x * (blockDim.x / threads) + threadIdx.x / threads;
    if (row >= rows) {
        return;
    }
    int lane = threadIdx.x % threads;
    const T* from = x + row * columns;
    T* to = out + row * columns;

    Pack<T, N> kept[KEPT];
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        int column = (lane + k * threads) * N;
        if (column < columns) {
            kept[k] = load_pack<N>(from + column);
        }
    }
    float sum = 0;
    float values[N];
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        if ((lane + k * threads) * N < columns) {
            kept[k].get(values);
#pragma unroll
            for (int i = 0; i < N; i++) {
                sum += values[i] * values[i];
            }
        }
    }
    for (int column = (lane + KEPT * threads) * N; column < columns; column += threads * N) {
        load_floats<N>(from + column, values);
#pragma unroll
        for (int i = 0; i < N; i++) {
            sum += values[i] * values[i];
        }
    }
    sum = threads == WARP ? warp_sum(sum) : block_sum(sum, shared);
    float scale = rsqrtf(sum / columns + epsilon);
    if (lane == 0) {
        rstd[row] = scale;
    }

    float weights[N];
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        int column = (lane + k * threads) * N;
        if (column < columns) {
            kept[k].get(values);
            load_floats<N>(weight + column, weights);
#pragma unroll
            for (int i = 0; i < N; i++) {
                values[i] = normed(values[i], weights[i], scale);
            }
            store_floats<N>(to + column, values);
        }
    }
    for (int column = (lane + KEPT * threads) * N; column < columns; column += threads * N) {
        load_floats<N>(from + column, values);
        load_floats<N>(weight + column, weights);
#pragma unroll
        for (int i = 0; i < N; i++) {
            values[i] = normed(values[i], weights[i], scale);
        }
        store_floats<N>(to + column, values);
    }
}

#define RMS_NORM(SUFFIX, T, N) \
    extern "C" __global__ void __launch_bounds__(1024) rms_norm_##SUFFIX( \
            const T* x, const T* weight, float epsilon, T* out, float* rstd, long long rows, int columns, \
            int threads) { \
        rms_norm<T, N>(x, weight, epsilon, out, rstd, rows, columns, threads); \
    }
FOR_DTYPES(RMS_NORM)

// A block has one or more groups of `threads` threads, each with rows of its own. A thread has the same columns of
// every row, so that it sums their part of the weight's gradient in registers; beyond those, in the block's row of
// `partials`, for which there are kernels of their own, named `_wide`: the others have no registers to lose to it. More
// than one group only where all columns fit the registers.

template <typename T, int N, int KEPT, bool WIDE>
__device__ __forceinline__ void rms_norm_backward(
        const T* __restrict__ grad_out, const T* __restrict__ x, const T* __restrict__ weight,
        const float* __restrict__ rstd, const T* residual, T* grad_x, float* __restrict__ partials, T* __restrict__ out,
        int rows, int columns, int threads) {
    __shared__ float sums[2][WARP];
    extern __shared__ float combined[];
    int groups = blockDim.x / threads;
    int group = threadIdx.x / threads;
    int lane = threadIdx.x % threads;
    int warps = threads / WARP;
    // Where the columns begin that exceed the registers.
    int rest = WIDE ? (lane + KEPT * threads) * N : columns;
    float* partial = partials + (long long)blockIdx.x * columns;
    float products[KEPT][N];
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            products[k][i] = 0;
        }
    }
#pragma unroll 1
    for (int column = rest; column < columns; column += threads * N) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            partial[column + i] = 0;
        }
    }

    float g[N];
    float v[N];
    float w[N];
    float p[N];
    int turn = 0;
    for (int row = blockIdx.x * groups + group; row < rows; row += gridDim.x * groups) {
        long long start = (long long)row * columns;
        Pack<T, N> grads[KEPT];
        Pack<T, N> values[KEPT];
        Pack<T, N> past[KEPT];
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            int column = (lane + k * threads) * N;
            if (column < columns) {
                grads[k] = load_pack<N>(grad_out + start + column);
                values[k] = load_pack<N>(x + start + column);
                if (residual != nullptr) {
                    past[k] = load_pack<N>(residual + start + column);
                }
            }
        }
        float scale = rstd[row];
        float dot = 0;
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            int column = (lane + k * threads) * N;
            if (column < columns) {
                grads[k].get(g);
                values[k].get(v);
                load_floats<N>(weight + column, w);
#pragma unroll
                for (int i = 0; i < N; i++) {
                    dot += w[i] * g[i] * v[i];
                }
            }
        }
#pragma unroll 1
        for (int column = rest; column < columns; column += threads * N) {
            load_floats<N>(grad_out + start + column, g);
            load_floats<N>(x + start + column, v);
            load_floats<N>(weight + column, w);
#pragma unroll
            for (int i = 0; i < N; i++) {
                dot += w[i] * g[i] * v[i];
            }
        }
        dot = warp_sum(dot);
        if (threads > WARP) {
            // Two buffers in turn: who writes one again has passed the barrier after which the other was read, and so
            // has everybody read this one.
            float* buffer = sums[turn];
            turn ^= 1;
            if (lane % WARP == 0) {
                buffer[threadIdx.x / WARP] = dot;
            }
            asm volatile("bar.sync %0, %1;" : : "r"(group + 1), "r"(threads) : "memory");
            dot = warp_sum(lane % WARP < warps ? buffer[group * warps + lane % WARP] : 0.0f);
        }
        float shrink = scale * scale * dot / columns;
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            int column = (lane + k * threads) * N;
            if (column < columns) {
                grads[k].get(g);
                values[k].get(v);
                load_floats<N>(weight + column, w);
                if (residual != nullptr) {
                    past[k].get(p);
                }
#pragma unroll
                for (int i = 0; i < N; i++) {
                    products[k][i] += g[i] * v[i] * scale;
                    float grad = scale * (w[i] * g[i] - v[i] * shrink);
                    g[i] = residual != nullptr ? p[i] + grad : grad;
                    v[i] = normed(v[i], w[i], scale);
                }
                store_floats<N>(grad_x + start + column, g);
                if (out != nullptr) {
                    store_floats<N>(out + start + column, v);
                }
            }
        }
#pragma unroll 1
        for (int column = rest; column < columns; column += threads * N) {
            load_floats<N>(grad_out + start + column, g);
            load_floats<N>(x + start + column, v);
            load_floats<N>(weight + column, w);
            if (residual != nullptr) {
                load_floats<N>(residual + start + column, p);
            }
#pragma unroll
            for (int i = 0; i < N; i++) {
                partial[column + i] += g[i] * v[i] * scale;
                float grad = scale * (w[i] * g[i] - v[i] * shrink);
                g[i] = residual != nullptr ? p[i] + grad : grad;
                v[i] = normed(v[i], w[i], scale);
            }
            store_floats<N>(grad_x + start + column, g);
            if (out != nullptr) {
                store_floats<N>(out + start + column, v);
            }
        }
    }

    float* sum = groups == 1 ? partial : combined;
    // Every thread passes __syncthreads() in every turn; the races that compute-sanitizer reports here are none.
    for (int turns = 0; turns < groups; turns++) {
        if (group == turns) {
#pragma unroll
            for (int k = 0; k < KEPT; k++) {
                int column = (lane + k * threads) * N;
                if (column < columns) {
#pragma unroll
                    for (int i = 0; i < N; i++) {
                        sum[column + i] = turns == 0 ? products[k][i] : sum[column + i] + products[k][i];
                    }
                }
            }
        }
        __syncthreads();
    }
    if (groups > 1) {
        for (int column = threadIdx.x; column < columns; column += blockDim.x) {
            partial[column] = combined[column];
        }
    }
}

#define RMS_NORM_BACKWARD_KERNEL(NAME, T, N, WIDE, THREADS) \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME( \
            const T* grad_out, const T* x, const T* weight, const float* rstd, const T* residual, T* grad_x, \
            float* partials, T* out, int rows, int columns, int threads) { \
        rms_norm_backward<T, N, N == 1 ? 4 : 1, WIDE>( \
                grad_out, x, weight, rstd, residual, grad_x, partials, out, rows, columns, threads); \
    }
#define RMS_NORM_BACKWARD(SUFFIX, T, N) \
    RMS_NORM_BACKWARD_KERNEL(rms_norm_backward_##SUFFIX, T, N, false, 1024) \
    RMS_NORM_BACKWARD_KERNEL(rms_norm_backward_##SUFFIX##_wide, T, N, true, 512)
FOR_DTYPES(RMS_NORM_BACKWARD)

// out[column] (+)= the sum of that column of `partials` [parts, columns]; a block has 32 columns and 32 warps.
extern "C" __global__ void __launch_bounds__(1024) sum_partials(
        const float* __restrict__ partials, int parts, int columns, float* out, int accumulate) {
    __shared__ float sums[WARP][WARP + 1];
    int lane = threadIdx.x % WARP;
    int warp = threadIdx.x / WARP;
    int column = blockIdx.x * WARP + lane;
    float sum = 0;
    if (column < columns) {
#pragma unroll 4
        for (int part = warp; part < parts; part += WARP) {
            sum += partials[(long long)part * columns + column];
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    // Now a warp has a column, and a lane what a warp has summed of it.
    sum = warp_sum(sums[lane][warp]);
    column = blockIdx.x * WARP + warp;
    if (lane == 0 && column < columns) {
        out[column] = accumulate ? out[column] + sum : sum;
    }
}
