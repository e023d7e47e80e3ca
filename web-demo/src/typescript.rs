//! The types of the interface, as TypeScript has them. Goes into `eddy.d.ts` as
//! it stands here.

use wasm_bindgen::prelude::*;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = include_str!("types.d.ts");

#[wasm_bindgen]
extern "C" {
    /// See `types.d.ts`.
    #[wasm_bindgen(typescript_type = "SubscribeOptions")]
    pub type SubscribeOptions;
    /// See `types.d.ts`.
    #[wasm_bindgen(typescript_type = "ProduceOptions")]
    pub type ProduceOptions;
    /// See `types.d.ts`.
    #[wasm_bindgen(typescript_type = "NewRecord[]")]
    pub type NewRecords;
    /// See `types.d.ts`.
    #[wasm_bindgen(typescript_type = "(batch: Batch) => void")]
    pub type OnBatch;
    /// See `types.d.ts`.
    #[wasm_bindgen(typescript_type = "(event: SubscriptionEvent) => void")]
    pub type OnEvent;
    /// See `types.d.ts`.
    #[wasm_bindgen(typescript_type = "(state: ConnectionState) => void")]
    pub type OnState;
    /// See `types.d.ts`.
    #[wasm_bindgen(typescript_type = "Promise<number>")]
    pub type SubscriptionPromise;
    /// See `types.d.ts`.
    #[wasm_bindgen(typescript_type = "Promise<Produced[]>")]
    pub type ProducedPromise;
    /// See `types.d.ts`.
    #[wasm_bindgen(typescript_type = "Promise<TopicInfo[]>")]
    pub type TopicsPromise;
}
