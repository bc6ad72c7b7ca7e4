// Cross-entropy. A block has a row, which it reads once and keeps in shared memory where it fits there (`stored`);
// otherwise it reads it twice, the second time from the L2 cache. Rows may start anywhere: a row is a few elements up
// to a multiple of 16 bytes, then packs, then a few elements.

// The running maximum, and the sum of e^(x - maximum).
struct Softmax {
    float max;
    float sum;
};

template <int N>
__device__ __forceinline__ void include(Softmax& softmax, const float* x) {
    float max = x[0];
#pragma unroll
    for (int i = 1; i < N; i++) {
        max = fmaxf(max, x[i]);
    }
    if (max > softmax.max) {
        softmax.sum *= fast_exp(softmax.max - max);
        softmax.max = max;
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        // The product is NaN where x is not finite, also where it is minus infinity, which alone would not be seen.
        softmax.sum = fmaf(x[i], 0.0f, softmax.sum + fast_exp(x[i] - softmax.max));
    }
}

template <typename T>
__device__ __forceinline__ void cross_entropy(
        T* logits, const int* __restrict__ labels, const float* __restrict__ scale, float* __restrict__ losses,
        int columns, int gradient, int stored) {
    constexpr int N = Wide<T>::N;
    constexpr int LOADS = 4;
    extern __shared__ uint4 row[];
    __shared__ float shared[WARP];
    Pack<T, N>* kept = reinterpret_cast<Pack<T, N>*>(row);
    T* at = logits + (long long)blockIdx.x * columns;
    int threads = blockDim.x;

    int head = (int)((0 - reinterpret_cast<unsigned long long>(at)) % 16 / sizeof(T));
    head = head < columns ? head : columns;
    int packs = (columns - head) / N;
    T* body = at + head;
    // The single element of this thread, among those before the packs or after them.
    int tail = head + packs * N;
    int single = (int)threadIdx.x < head ? (int)threadIdx.x : tail + (int)threadIdx.x - N;
    if (((int)threadIdx.x >= head && (int)threadIdx.x < N) || single >= columns) {
        single = -1;
    }

    int label = labels[blockIdx.x];
    if (label < 0) {
        if (gradient) {
            float zeros[N];
#pragma unroll
            for (int i = 0; i < N; i++) {
                zeros[i] = 0;
            }
            for (int i = threadIdx.x; i < packs; i += threads) {
                store_floats<N>(body + i * N, zeros);
            }
            if (single >= 0) {
                at[single] = from_float<T>(0);
            }
        }
        if (threadIdx.x == 0) {
            losses[blockIdx.x] = 0;
        }
        return;
    }

    float target = to_float(at[label]);
    Softmax softmax{-__int_as_float(0x7f800000), 0};
    float values[N];
    if (single >= 0) {
        values[0] = to_float(at[single]);
        include<1>(softmax, values);
    }
    for (int from = threadIdx.x; from < packs; from += LOADS * threads) {
        Pack<T, N> loaded[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            int i = from + k * threads;
            if (i < packs) {
                loaded[k] = load_pack<N>(body + i * N);
            }
        }
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            int i = from + k * threads;
            if (i < packs) {
                if (stored) {
                    kept[i] = loaded[k];
                }
                loaded[k].get(values);
                include<N>(softmax, values);
            }
        }
    }

    float max = block_max(softmax.max, shared);
    float sum = block_sum(softmax.sum * fast_exp(softmax.max - max), shared);
    float log_probability = target - max - logf(sum);
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = -log_probability;
    }
    if (!gradient) {
        return;
    }

    float factor = *scale / sum;
    if (single >= 0) {
        at[single] = from_float<T>(fast_exp(to_float(at[single]) - max) * factor);
    }
    for (int from = threadIdx.x; from < packs; from += LOADS * threads) {
        Pack<T, N> loaded[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            int i = from + k * threads;
            if (i < packs) {
                loaded[k] = stored ? kept[i] : load_pack<N>(body + i * N);
            }
        }
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            int i = from + k * threads;
            if (i < packs) {
                loaded[k].get(values);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    values[j] = fast_exp(values[j] - max) * factor;
                }
                store_floats<N>(body + i * N, values);
            }
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        at[label] = from_float<T>(*scale * expm1f(log_probability));
    }
}

#define CROSS_ENTROPY(SUFFIX, T) \
    extern "C" __global__ void __launch_bounds__(1024) cross_entropy_##SUFFIX( \
            T* logits, const int* labels, const float* scale, float* losses, int columns, int gradient, int stored) { \
        cross_entropy<T>(logits, labels, scale, losses, columns, gradient, stored); \
    }
CROSS_ENTROPY(f32, float)
CROSS_ENTROPY(bf16, bf16)
CROSS_ENTROPY(f16, f16)

// loss (+)= scale · the sum of the rows' losses; one block.
extern "C" __global__ void __launch_bounds__(1024) sum_losses(
        const float* losses, int rows, const float* scale, float* loss, int accumulate) {
    __shared__ double shared[WARP];
    double sum = 0;
    for (int t = threadIdx.x; t < rows; t += blockDim.x) {
        sum += losses[t];
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        sum *= *scale;
        *loss = (float)(accumulate ? *loss + sum : sum);
    }
}
