//! What an instance makes of a batch, once every claim in it has been checked.

use eddy_protocol::batch::{ColumnBuf, Columns};

use super::PluginError;
use super::bindings::eddy::plugin::types as wit;

/// The name of the output that `All` and `Keep` are for.
pub const PORT_OUT: &str = "out";

/// What becomes of a batch.
#[derive(Debug)]
pub enum Verdict {
    /// Every record goes to the output [`PORT_OUT`] as it came.
    All,
    /// These rows go to the output [`PORT_OUT`] as they came: strictly rising, each within the batch.
    Keep(Vec<u32>),
    /// Records for any of the outputs, each of which occurs once.
    Emit(Vec<Output>),
}

/// Records for one output.
#[derive(Debug)]
pub struct Output {
    /// The place of the output in [`Context::outputs`](super::Context::outputs).
    pub port: u32,
    /// The records; never none.
    pub records: ColumnBuf,
}

/// What a record of no bytes takes in a batch: its timestamp, and the ends of its key and value.
const RECORD_BYTES: usize = 16;
/// How many outputs a verdict may have, each port's counted as often as it occurs.
const OUTPUTS_MAX: usize = 1024;
/// What an output takes before its first record, so that empty ones are not free.
const OUTPUT_BYTES: usize = 64;

/// The records as the contract has them; nothing is copied yet.
pub(super) fn lower(records: &ColumnBuf) -> wit::Batch<'_> {
    let keyless = is_keyless(records);
    wit::Batch {
        offsets: records.offsets(),
        records: wit::ColumnsParam {
            timestamps: records.timestamps(),
            key_ends: if keyless { &[] } else { records.key_ends() },
            keys: records.key_bytes(),
            key_nulls: records.key_nulls().filter(|_| !keyless).unwrap_or_default(),
            value_ends: records.value_ends(),
            values: records.value_bytes(),
            value_nulls: records.value_nulls().unwrap_or_default(),
            header_ends: records.header_ends(),
            headers: records.header_bytes(),
        },
    }
}

fn is_keyless(records: &ColumnBuf) -> bool {
    let nulls = |bits: &[u8]| {
        bits.iter()
            .map(|byte| byte.count_ones() as usize)
            .sum::<usize>()
    };
    records.key_bytes().is_empty()
        && records
            .key_nulls()
            .is_some_and(|bits| nulls(bits) == records.len())
}

/// The verdict, if it keeps every rule of the contract.
pub(super) fn check(
    verdict: wit::Verdict,
    records: &ColumnBuf,
    ports: usize,
    output_bytes_max: usize,
) -> Result<Verdict, PluginError> {
    match verdict {
        wit::Verdict::All => Ok(Verdict::All),
        wit::Verdict::Keep(rows) => {
            check_rows(&rows, records.len())?;
            Ok(Verdict::Keep(rows))
        }
        wit::Verdict::Emit(emitted) => {
            if emitted.len() > OUTPUTS_MAX {
                let words = format!("{} outputs, the limit is {OUTPUTS_MAX}", emitted.len());
                return Err(PluginError::InvalidVerdict(words));
            }
            let mut budget = Budget {
                bytes: 0,
                limit: output_bytes_max,
            };
            let mut outputs = Vec::new();
            for output in emitted {
                add(raise(output, records, ports, &mut budget)?, &mut outputs)?;
            }
            Ok(Verdict::Emit(outputs))
        }
    }
}

/// What goes to one port is one output, in the order in which it came.
fn add(output: Output, outputs: &mut Vec<Output>) -> Result<(), PluginError> {
    if output.records.is_empty() {
        // Of no use to anybody.
        return Ok(());
    }
    let Some(before) = outputs.iter_mut().find(|before| before.port == output.port) else {
        outputs.push(output);
        return Ok(());
    };
    for mut record in output.records.iter() {
        record.offset = before.records.len() as u64;
        before
            .records
            .push_record(&record)
            .map_err(|error| PluginError::InvalidVerdict(error.to_string()))?;
    }
    Ok(())
}

fn raise(
    output: wit::Output,
    input: &ColumnBuf,
    ports: usize,
    budget: &mut Budget,
) -> Result<Output, PluginError> {
    let port = output.port;
    if port as usize >= ports {
        let words = format!("an output for port {port}, and {ports} are connected");
        return Err(PluginError::InvalidVerdict(words));
    }
    budget.take(OUTPUT_BYTES)?;
    let records = match output.records {
        wit::Emitted::Rows(rows) => {
            check_rows(&rows, input.len())?;
            copy(&rows, input, budget)?
        }
        wit::Emitted::Columns(columns) => {
            budget.take(columns_bytes(&columns))?;
            adopt(columns)?
        }
    };
    Ok(Output { port, records })
}

/// How much may still be put out.
struct Budget {
    bytes: usize,
    limit: usize,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), PluginError> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > self.limit {
            true => Err(PluginError::OutputTooLarge {
                bytes: self.bytes,
                limit: self.limit,
            }),
            false => Ok(()),
        }
    }
}

/// Strictly rising and within the batch. Without a branch per row, so that it becomes vector instructions.
fn check_rows(rows: &[u32], count: usize) -> Result<(), PluginError> {
    let invalid = |words: String| Err(PluginError::InvalidVerdict(words));
    let falls = rows
        .iter()
        .zip(rows.iter().skip(1))
        .fold(false, |falls, (a, b)| falls | (b <= a));
    if falls {
        return invalid("rows that do not rise".into());
    }
    match rows.last() {
        Some(&row) if row as usize >= count => invalid(format!("row {row} of a batch of {count}")),
        _ => Ok(()),
    }
}

/// The rows as records of their own.
fn copy(rows: &[u32], input: &ColumnBuf, budget: &mut Budget) -> Result<ColumnBuf, PluginError> {
    let picked = || rows.iter().filter_map(|row| input.record(*row as usize));
    for record in picked() {
        let headers = record
            .headers
            .map(|(name, value)| 6 + name.len() + value.map_or(0, <[u8]>::len))
            .sum::<usize>();
        let lengths = [record.key, record.value].map(|bytes| bytes.map_or(0, <[u8]>::len));
        budget.take(RECORD_BYTES + headers + lengths.iter().sum::<usize>())?;
    }
    let mut records = ColumnBuf::with_capacity(rows.len(), 0);
    for (offset, mut record) in (0..).zip(picked()) {
        record.offset = offset;
        records
            .push_record(&record)
            .map_err(|error| PluginError::Internal(error.to_string()))?;
    }
    Ok(records)
}

fn columns_bytes(columns: &wit::ColumnsResult) -> usize {
    let bytes = [
        &columns.keys,
        &columns.key_nulls,
        &columns.values,
        &columns.value_nulls,
        &columns.headers,
    ];
    let ends = [&columns.key_ends, &columns.value_ends, &columns.header_ends];
    columns.timestamps.len() * size_of::<i64>()
        + bytes.iter().map(|bytes| bytes.len()).sum::<usize>()
        + ends
            .iter()
            .map(|ends| ends.len() * size_of::<u32>())
            .sum::<usize>()
}

/// The columns as records, every rule of the layout checked.
fn adopt(columns: wit::ColumnsResult) -> Result<ColumnBuf, PluginError> {
    let bitmap = |bits: Vec<u8>| (!bits.is_empty()).then_some(bits);
    let columns = Columns {
        // Their offsets are given where they are appended.
        offsets: (0..columns.timestamps.len() as u64).collect(),
        timestamps: columns.timestamps,
        key_ends: columns.key_ends,
        key_bytes: columns.keys,
        key_nulls: bitmap(columns.key_nulls),
        value_ends: columns.value_ends,
        value_bytes: columns.values,
        value_nulls: bitmap(columns.value_nulls),
        header_ends: columns.header_ends,
        header_bytes: columns.headers,
    };
    ColumnBuf::try_from(columns).map_err(|error| PluginError::InvalidVerdict(error.to_string()))
}
