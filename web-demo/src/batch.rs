//! Records on their way into JavaScript: one call for each delivery, whatever
//! the number of records in it.

use eddy_protocol::batch::{BatchError, ColumnBuf};
use eddy_protocol::session::Delivery;
use js_sys::{Float64Array, Uint8Array, Uint32Array};
use wasm_bindgen::prelude::*;

#[wasm_bindgen(module = "/src/batch.js")]
extern "C" {
    type Column;
    #[wasm_bindgen(constructor)]
    fn new(ends: Uint32Array, bytes: Uint8Array, nulls: Option<Uint8Array>, skip: u32) -> Column;

    pub(crate) type Batch;
    #[wasm_bindgen(constructor)]
    fn new(
        topic: &str,
        partition: u32,
        offsets: Float64Array,
        timestamps: Float64Array,
        keys: Column,
        values: Column,
        headers: Column,
    ) -> Batch;
}

/// The delivery's records as one JavaScript object; none if it holds no record.
pub(crate) fn into_js(topic: &str, delivery: &Delivery) -> Result<Option<Batch>, BatchError> {
    let mut columns = ColumnBuf::new();
    for records in delivery.batches() {
        columns.extend_from_records(records)?;
    }
    // The first batch may begin before the cursor.
    let skip = columns
        .offsets()
        .partition_point(|offset| *offset < delivery.first);
    let offsets = numbers(&columns.offsets()[skip..], |offset| offset as f64);
    if offsets.length() == 0 {
        return Ok(None);
    }
    let timestamps = numbers(&columns.timestamps()[skip..], |timestamp| timestamp as f64);
    let column = |ends: &[u32], bytes: &[u8], nulls: Option<&[u8]>| {
        Column::new(
            ends.into(),
            bytes.into(),
            nulls.map(Uint8Array::from),
            skip as u32,
        )
    };
    let keys = column(columns.key_ends(), columns.key_bytes(), columns.key_nulls());
    let values = column(
        columns.value_ends(),
        columns.value_bytes(),
        columns.value_nulls(),
    );
    let headers = column(columns.header_ends(), columns.header_bytes(), None);
    Ok(Some(Batch::new(
        topic,
        delivery.partition,
        offsets,
        timestamps,
        keys,
        values,
        headers,
    )))
}

/// JavaScript's numbers are exact up to 2^53, far beyond any offset or time.
fn numbers<T: Copy>(column: &[T], number: impl Fn(T) -> f64) -> Float64Array {
    let numbers: Vec<f64> = column.iter().map(|entry| number(*entry)).collect();
    Float64Array::from(numbers.as_slice())
}
